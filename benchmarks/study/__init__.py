"""What a study on Ray costs, and how soon it finds something, against plain Ray Tune.

Sets the environment that `ensemble` gives Ray, which reads it when it is imported: both sides run in the same Ray.
"""

import os

from ensemble.study.cluster import LOOPBACK, QUIET

os.environ.update(QUIET | LOOPBACK | {"RAY_AUTH_MODE": "token"})
