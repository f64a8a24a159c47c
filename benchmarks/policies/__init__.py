"""The tiny policies: their tokens, an epoch, and the closed loop, against their authors' ways."""
