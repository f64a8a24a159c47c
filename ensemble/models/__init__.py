"""Networks whose every parameter carries a leading member axis, so that one pass trains a pack of them."""
