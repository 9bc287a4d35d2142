"""What layers read and give while data passes through them: following a forward, observers, Gram matrices."""
