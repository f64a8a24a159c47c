"""LeRobot's data sets: the folder as a `Container` of columns, and its layout."""
