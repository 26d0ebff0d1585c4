"""The package behind *Large Language Models from the Ground Up*."""

__version__ = "0.1.0"
