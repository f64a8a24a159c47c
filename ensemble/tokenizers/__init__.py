"""FAST action tokenizers: chunks of actions as short sequences of integers, and back (Pertsch et al. 2025).

Chunk -> DCT along time -> rounded coefficients -> ids. `tokenizer.ActionTokenizer` is the public class; its two codecs,
from coefficients to ids, are in `tiny.py` and `byte_pairs.py`. All in numpy: no torch, no Ray, no model (floor 2).
"""
