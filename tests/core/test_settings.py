"""Settings: read once, unknown names are errors."""

from pathlib import Path

import pytest

from brie_core.errors import BadConfiguration
from brie_core.libraries import show_only
from brie_core.settings import Settings


def test_defaults_need_no_environment() -> None:
    settings = Settings.from_environment({"PATH": "/bin"})
    assert settings.base_url == "http://127.0.0.1:8000"
    assert settings.home == Path("~/.brie").expanduser()


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(BadConfiguration, match="BRIE_PROT"):
        Settings.from_environment({"BRIE_PROT": "1"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BRIE_PORT", "70000"),
        ("BRIE_PORT", "http"),
        ("BRIE_MIN_EXAMPLES", "0"),
        ("BRIE_MIN_EXAMPLES", "ten"),
        ("BRIE_DEVICE", "tpu"),
        ("BRIE_DEVICE", "cuda:x"),
        ("BRIE_DEVICE", "mps:1"),
        ("BRIE_DTYPE", "int3"),
        ("BRIE_ENGINE", "x"),
    ],
)
def test_a_bad_value_is_an_error_that_names_it(name: str, value: str) -> None:
    with pytest.raises(BadConfiguration, match=name):
        Settings.from_environment({name: value})


def test_a_worker_is_given_one_gpu_of_several() -> None:
    settings = Settings.from_environment({"BRIE_DEVICE": "cuda:1"})
    assert settings.device_type == "cuda"
    for given, shown in (({}, "1"), ({"CUDA_VISIBLE_DEVICES": "4,7"}, "7")):
        environment = dict(given)
        show_only(settings.device, environment)
        assert environment["CUDA_VISIBLE_DEVICES"] == shown
    untouched: dict[str, str] = {}
    for device in ("auto", "cpu", "cuda", "mps"):
        show_only(device, untouched)
    assert untouched == {}
    with pytest.raises(BadConfiguration, match="cuda:2"):
        show_only("cuda:2", {"CUDA_VISIBLE_DEVICES": "4,7"})


def test_the_network_is_not_served_without_a_key() -> None:
    with pytest.raises(BadConfiguration, match="BRIE_API_KEYS"):
        Settings.from_environment({"BRIE_HOST": "0.0.0.0"})
    assert Settings.from_environment({"BRIE_HOST": "0.0.0.0", "BRIE_API_KEYS": "a, b"}).api_keys == ("a", "b")


def test_keys_of_other_servers_are_no_settings() -> None:
    settings = Settings.from_environment({"BRIE_EVALUATION_KEY_BIG": "secret", "BRIE_EVALUATION_KEY": "secret"})
    assert "secret" not in repr(settings)
    with pytest.raises(BadConfiguration, match="BRIE_EVALUATION_KYE"):
        Settings.from_environment({"BRIE_EVALUATION_KYE": "1"})
