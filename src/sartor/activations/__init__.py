"""What layers see while data passes through them: one pass, its readers, patches and Gram matrices."""
