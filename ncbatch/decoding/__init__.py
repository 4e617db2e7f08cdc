"""From bitstreams back to images: of whole runs and of single files, and the repair of damaged runs."""
