"""The trackers that ``report_to`` names: refused before anything is loaded where they cannot be."""

from collections.abc import Sequence

from transformers.integrations import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
    is_azureml_available,
)

#: What is installed for a tracker, where that has another name or is more.
_PACKAGES = {"azure_ml": "azureml-sdk", "comet_ml": "comet-ml", "dagshub": "dagshub mlflow"}
#: Those that transformers does not look for beforehand, or that no package brings.
_NOT_LOOKED_FOR = ("flyte", "kubeflow")


def check_trackers(report_to: Sequence[str]) -> None:
    """Refuse a tracker that transformers does not know, or whose package is not there.

    Args:
        report_to: Names of trackers, from the options of a run.

    Raises:
        ValueError: There is such a tracker.
    """
    if not report_to:
        return
    for name in report_to:
        if name not in INTEGRATION_TO_CALLBACK:
            known = ", ".join(["none", "all", *sorted(INTEGRATION_TO_CALLBACK)])
            raise ValueError(f"report_to: no tracker is called {name!r}; there is {known}.")
    # Of Azure ML, transformers tells only where MLflow is not there, too.
    usable = {*_NOT_LOOKED_FOR, *get_available_reporting_integrations()}
    usable |= {"azure_ml"} if is_azureml_available() else set()
    if missing := [name for name in report_to if name not in usable]:
        packages = " ".join(_PACKAGES.get(name, name) for name in missing)
        raise ValueError(
            f"report_to names {', '.join(missing)}, which is not installed or not set up here: "
            f"pip install {packages}, or set report_to none."
        )
