"""Helpers of the tests: real vocabularies, tiny checkpoints, adapters, and llama.cpp as the oracle."""
