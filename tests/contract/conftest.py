"""The trained runs of the training tests, for the tests that hand them to the service."""

from tests.training.conftest import digit_data, street_data, tiny_models, tiny_runs

__all__ = ["digit_data", "street_data", "tiny_models", "tiny_runs"]
