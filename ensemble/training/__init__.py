"""The training of packs: arena, optimizer, loop, checkpoints, rows; then the Ray Train skin (floor 6)."""
