"""Whether a device decodes what other machines wrote, and what it is."""
