"""The contract table: every layer in its main variants."""

from tests.layers import cases, cases_interactions, cases_sequences

CASES = [*cases.CASES, *cases_interactions.CASES, *cases_sequences.CASES]
