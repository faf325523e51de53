"""The commands of ``qkov``, a file each; :mod:`qkov.cli` puts them together."""
