"""Images: files to pixels, as strictly as can be, and how far two images are apart."""
