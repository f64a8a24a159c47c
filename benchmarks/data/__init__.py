"""How data become shards, and shards batches."""
