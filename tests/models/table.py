"""The contract table: every model in its main variants."""

from tests.models import cases, cases_interactions, cases_rocket, cases_towers
from tests.models.cases import Case

CASES: dict[str, Case] = {
    **cases.CASES,
    **cases_interactions.CASES,
    **cases_towers.CASES,
    **{name: Case(*entry) for name, entry in cases_rocket.CASES.items()},
}
# Of models that stop gradients on purpose: the tops of ``params`` that the logits' gradient reaches. Others: all.
REACHED = cases_rocket.REACHED
