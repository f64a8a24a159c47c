#!/usr/bin/env bash
# Submits a job from this checkout together with its commit, which every row names: Ray uploads no .git.
#
#   cluster/submit.sh [options of `ray job submit`] -- python -m ensemble tune --space quickstart.yaml --results /abs
#
# ADDRESS=http://127.0.0.1:8265 chooses the cluster; the token is the one of RAY_AUTH_TOKEN_PATH (~/.ray/auth_token).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PATH=$root/.venv/bin:$PATH
commit=$(git -C "$root" rev-parse HEAD 2>/dev/null || true)
if [[ -n $commit && -n $(git -C "$root" status --porcelain --untracked-files=no ensemble) ]]; then commit+=+; fi
export RAY_AUTH_MODE=token
exec ray job submit --address "${ADDRESS:-http://127.0.0.1:8265}" --working-dir "$root" \
    --runtime-env-json "{\"env_vars\": {\"ENSEMBLE_GIT_COMMIT\": \"$commit\"}}" "$@"
