"""Shared memory for images: layout and pool (pure), segment (writer), reader, reaper."""
