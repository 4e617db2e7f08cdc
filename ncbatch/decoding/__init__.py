"""From bitstreams back to images: of whole runs, of single files, and what is done where they are damaged."""
