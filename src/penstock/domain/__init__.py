"""What the platform is about, in frozen types without I/O.

Dialects make these from manifests, controllers reason about them, and the two planes exchange them as
messages (`process` and `routes`). Values are validated where they enter the system (dialects, command
line); inside they are trusted.
"""
