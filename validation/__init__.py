"""Models x checks -> evidence: what the measurement is validated on, and how.

Lives in the repository only and is never installed. It may import ``qkov``; ``qkov`` never imports it.
"""
