"""The compose files: sound by the compose specification's own schema, and true to the images and settings they name.

`compose-spec.json` is schema/compose-spec.json of github.com/compose-spec/compose-spec as of 2026-06-23 (170098b),
Apache License 2.0 (LICENSE beside it), unchanged.
"""

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema_rs import Draft7Validator

from brie_core.settings import EVALUATION_KEY, LOOPBACK, Settings

ROOT = Path(__file__).parents[2]
FILES = ("docker-compose.yml", "compose.sqlite.yml")
SCHEMA = Draft7Validator(json.loads(Path(__file__).with_name("compose-spec.json").read_text()))
_VARIABLE = re.compile(r"\$\{([A-Za-z_]\w*)")
_FOREIGN = {"POSTGRES_PASSWORD", "HF_TOKEN", "HF_HUB_OFFLINE"}
"""What PostgreSQL's image and the hub's library read."""
SETTINGS = {EVALUATION_KEY, *(f"BRIE_{field.name.upper()}" for field in fields(Settings))}


@pytest.fixture(scope="module", params=FILES)
def file(request: pytest.FixtureRequest) -> Path:
    return ROOT / str(request.param)


@pytest.fixture(scope="module")
def compose(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(file.read_text())
    return found


def ours(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The services that are made of our images."""
    return {name: service for name, service in compose["services"].items() if "build" in service}


def stages(dockerfile: Path) -> list[str]:
    return re.findall(r"^FROM \S+ AS (\S+)$", dockerfile.read_text(), re.MULTILINE)


def test_the_file_is_as_the_specification_has_it(compose: dict[str, Any]) -> None:
    assert [f"{error.instance_path}: {error.message}" for error in SCHEMA.iter_errors(compose)] == []


def test_the_schema_refuses_what_is_none_of_a_service() -> None:
    assert not SCHEMA.is_valid({"services": {"api": {"image": "api", "read-only": True}}})


def test_what_a_service_refers_to_is_there(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert set(service.get("depends_on", {})) <= compose["services"].keys(), name
        assert set(service.get("networks", ())) <= compose.get("networks", {}).keys(), name
        volumes = [volume.split(":")[0] for volume in service["volumes"]]
        assert set(volumes) <= compose["volumes"].keys(), name


def test_no_volume_and_no_network_is_declared_in_vain(compose: dict[str, Any]) -> None:
    services = compose["services"].values()
    assert {volume.split(":")[0] for service in services for volume in service["volumes"]} == set(compose["volumes"])
    assert {name for service in services for name in service.get("networks", ())} == set(compose.get("networks", ()))


def test_who_depends_waits_for_health_that_is_looked_at(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for name, condition in service.get("depends_on", {}).items():
            assert condition == {"condition": "service_healthy"}
            needed = compose["services"][name]
            image = (ROOT / needed["build"]["dockerfile"]).read_text() if "build" in needed else ""
            assert "healthcheck" in needed or "\nHEALTHCHECK " in image


def test_an_active_service_depends_only_on_services_that_are_active_with_it(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for name in service.get("depends_on", {}):
            assert set(compose["services"][name].get("profiles", ())) <= set(service.get("profiles", ()))


def test_every_service_is_confined(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not service.get("privileged") and "cap_add" not in service, name


def test_only_this_machine_reaches_what_is_published(compose: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in compose["services"].items() if "ports" in service}
    assert published.keys() <= ours(compose).keys()
    for ports in published.values():
        assert ports == ["127.0.0.1:${BRIE_PORT:-8000}:8000"]


def test_what_is_built_has_the_target_it_names(compose: dict[str, Any]) -> None:
    for service in ours(compose).values():
        build = service["build"]
        assert (ROOT / build["context"]).resolve() == ROOT
        assert build["target"] in stages(ROOT / build["dockerfile"])
        assert service["image"].endswith(f":{build['target']}")


def test_what_is_built_here_comes_from_no_registry_and_starts_again_without_one(compose: dict[str, Any]) -> None:
    """`never` builds what is missing. `build` asks for the base's digest at each start; `missing` pulls our names."""
    assert {name: service.get("pull_policy") for name, service in ours(compose).items()} == dict.fromkeys(
        ours(compose), "never"
    )


def test_each_variable_is_in_the_example_and_the_example_has_no_other(file: Path) -> None:
    example = set(re.findall(r"^#?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert set(_VARIABLE.findall(file.read_text())) <= example
    every = {name for each in FILES for name in _VARIABLE.findall((ROOT / each).read_text())}
    assert every == example


def test_the_services_can_use_the_settings_they_are_given(compose: dict[str, Any]) -> None:
    for name, service in ours(compose).items():
        given = {key: defaulted(str(value)) for key, value in service["environment"].items()}
        assert given.keys() <= _FOREIGN | SETTINGS, name
        published = {"BRIE_HOST": "0.0.0.0"} if "ports" in service else {}
        settings = Settings.from_environment({"BRIE_HOME": "/data"} | given | published)
        assert settings.host in LOOPBACK or settings.api_keys, name


def test_every_variable_of_brie_is_a_setting_and_arrives_under_its_name(compose: dict[str, Any]) -> None:
    for service in ours(compose).values():
        for key, value in service["environment"].items():
            if key == "BRIE_URL":  # between services: where the shell has it published is not where they find it
                assert value.removeprefix("http://").removesuffix(":8000") in compose["services"]
            else:
                assert _VARIABLE.findall(str(value)) in ([key], ["POSTGRES_PASSWORD"])


@pytest.mark.parametrize("folder", ["server", "trainer"])
def test_an_image_has_both_targets_and_runs_as_nobody_in_particular(folder: str) -> None:
    text = (ROOT / folder / "Dockerfile").read_text()
    assert {"cpu", "cuda"} <= set(stages(ROOT / folder / "Dockerfile"))
    for target in ("cpu", "cuda"):
        stage = re.split(r"^FROM ", text[text.index(f"AS {target}\n") :], flags=re.MULTILINE)[0]
        users = re.findall(r"^USER (.+)$", stage, re.MULTILINE)
        assert users[-1] == "10001:10001"
    assert "\nHEALTHCHECK " in text
    assert 'ENTRYPOINT ["tini", "--", "brie"]' in text


def test_both_images_are_made_alike_as_far_as_they_are_alike() -> None:
    """Layers with the same instructions are kept and moved once: a difference would cost two gigabytes with CUDA."""
    api, worker = ((ROOT / folder / "Dockerfile").read_text() for folder in ("server", "trainer"))
    both = [text[text.index("ARG BASE=") : text.index("FROM with-torch-cuda AS cuda")] for text in (api, worker)]
    own = re.compile(r"^ARG EXTRAS=.*\n", re.MULTILINE)
    assert own.sub("", both[0]) == own.sub("", both[1])


@pytest.mark.parametrize("folder", ["server", "trainer"])
def test_both_targets_end_alike(folder: str) -> None:
    text = (ROOT / folder / "Dockerfile").read_text()
    cuda, cpu = text[text.index("FROM with-torch-cuda AS cuda") :].split("\n\n")
    assert cuda.replace("cuda", "cpu") == cpu.strip()


def test_what_is_copied_into_an_image_is_not_kept_from_the_builder() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    packaged = re.findall(r'"([a-z/]+)/brie_[a-z]+"', (ROOT / "pyproject.toml").read_text())
    assert {"pyproject.toml", "constraints.txt", "README.md", *packaged} == kept


def defaulted(value: str) -> str:
    """As Compose has it where the variable is not set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)


def test_the_version_of_cuda_is_the_one_that_torch_is_built_for() -> None:
    text = (ROOT / "server/Dockerfile").read_text()
    compiler, index = re.search(r"cuda:(\d+)\.(\d+)", text), re.search(r"whl/cu(\d+)$", text, re.MULTILINE)
    assert compiler and index and index[1] == compiler[1] + compiler[2]
    assert f"nvidia/cu{compiler[1]}/lib" in text
