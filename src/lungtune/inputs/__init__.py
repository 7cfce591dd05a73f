"""What a step is fed: images augmented afresh, features kept on disk, the pool a trial trains on."""
