"""Models' files and what models say of themselves."""
