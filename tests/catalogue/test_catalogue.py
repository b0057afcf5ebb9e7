"""The catalogue: what is found where, presets, and trained priors with their weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import invtoolbox as it
from invtoolbox.catalogue import presets
from invtoolbox.catalogue import shelves as catalogue
from invtoolbox.errors import InputError
from invtoolbox.jobs.flow.methods import method_named
from invtoolbox.jobs.images.tables import Operator
from invtoolbox.priors import DnCNN


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's own folder with the four shelves."""
    for kind in catalogue.SHELVES:
        (tmp_path / kind).mkdir()
    monkeypatch.setenv("INVTOOLBOX_CATALOGUE", str(tmp_path))
    return tmp_path


def trained(shelf: Path, name: str = "tiny", card: str = "", depth: int = 3) -> DnCNN:
    """A trained prior on the shelf, and its network."""
    folder = shelf / "priors" / name
    folder.mkdir()
    torch.manual_seed(0)
    network = DnCNN(depth=depth, width=4)
    save_file(network.state_dict(), folder / "weights.safetensors")
    (folder / "card.toml").write_text(
        card
        or '# A tiny denoiser.\nprior = "denoiser"\nsigma = 0.1\n[network]\n'
        'name = "dncnn"\ndepth = 3\nwidth = 4\nweights = "weights.safetensors"\n'
    )
    return network.eval()


def test_every_file_that_comes_with_the_toolbox_has_a_summary_and_is_toml() -> None:
    for kind in catalogue.SHELVES:
        for entry in catalogue.entries(kind).values():
            assert len(entry.summary) > 20, entry.path
            assert entry.read()


def test_the_users_own_folder_comes_first(shelf: Path) -> None:
    (shelf / "scenes" / "ct-small.toml").write_text("# Mine.\n")
    (shelf / "scenes" / "other.toml").write_text("a = 1\n")
    found = catalogue.entries("scenes")
    assert found["ct-small"].summary == "Mine." and found["other"].summary == ""
    assert found["deblur-camera"].path.parent != shelf / "scenes"
    assert list(found) == sorted(found)


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match="no scene named 'ct-smal'; did you mean 'ct-small'"):
        catalogue.find("scenes", "ct-smal")
    with pytest.raises(InputError, match="shelf"):
        catalogue.folders("scene")


@pytest.mark.parametrize("name", ["TV", "tv", "Tikhonov", "totalvariation", "TotalVariation"])
def test_names_are_the_same_in_any_case(name: str) -> None:
    expected = "Tikhonov" if name == "Tikhonov" else "TotalVariation"
    assert type(presets.prior_named(name)).__name__ == expected


def test_names_of_priors_are_read_as_the_field_writes_them() -> None:
    tv, both = it.priors.TotalVariation(), it.priors.NonNegative() + it.priors.TotalVariation()
    for name in ("total-variation", "total variation", "Total_Variation", "TV"):
        assert repr(presets.priors_named(name)) == repr(tv)
    for names in ("nonnegative,tv", "non-negative, tv", ["nonnegative", tv], ("nonnegative,tv",)):
        assert repr(presets.priors_named(names)) == repr(both)
    assert presets.priors_named(None) is None and presets.priors_named([]) is None
    with pytest.raises(InputError, match="a name, a list of names"):
        presets.priors_named(["tv", 3])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("BM3D", "denoiser-natural"),
        ("plug-and-play", "denoiser-natural"),
        ("positivity", "nonnegative"),
        ("low rank", "nuclear-norm"),
        ("tikonov", "tikhonov"),
    ],
)
def test_an_unknown_prior_is_answered_by_its_meaning_first(name: str, meant: str) -> None:
    with pytest.raises(InputError, match=f"no prior named '{name}'; did you mean '{meant}'"):
        presets.prior_named(name)
    known = {*presets.names("priors"), *catalogue.entries("priors")}
    assert set(presets.MEANT.values()) <= known and not set(presets.MEANT) & known


def test_every_kind_of_name_is_found_in_any_case(shelf: Path) -> None:
    assert repr(presets.solver_named("CGLS")) == repr(presets.solver_named("cgls"))
    assert type(presets.solver_named("Admm")) is it.solvers.ADMM
    assert repr(presets.load_preset("DPIR")) == repr(presets.load_preset("dpir"))
    assert it.parameter_choice.rule_named("GCV").probes == 1
    assert torch.equal(it.datasets.photograph("Camera"), it.datasets.photograph("camera"))
    assert type(method_named("ICP-Flow")) is type(method_named("icp-flow"))
    assert Operator(name="Parallel-Beam").name == "parallel-beam"
    # A user's own entry may be written in capitals; the same case comes first.
    (shelf / "solvers" / "Mine.toml").write_text('solver = "admm"\nrho = 2.0\n')
    (shelf / "solvers" / "MINE.toml").write_text('solver = "admm"\nrho = 3.0\n')
    for name in ("Mine", "MINE"):
        assert catalogue.find("solvers", name).name == name
    assert catalogue.find("solvers", "mine").name in ("Mine", "MINE")
    with pytest.raises(InputError, match="did you mean 'tikhonov'"):
        presets.prior_named("TIKHONOF")


def test_broken_toml_is_named_with_its_line(shelf: Path) -> None:
    (shelf / "scenes" / "bad.toml").write_text("a = 1\nb = [\n")
    with pytest.raises(InputError, match=r"bad\.toml is not valid TOML"):
        catalogue.find("scenes", "bad").read()


def test_a_preset_is_a_solver_with_its_settings(shelf: Path) -> None:
    (shelf / "solvers" / "careful.toml").write_text(
        '# Slow.\nsolver = "gradient-descent"\nmax_iterations = 7\n'
    )
    assert presets.solver_named("careful") == it.solvers.GradientDescent(max_iterations=7)
    assert presets.load_preset("careful", {"max_iterations": 9}).max_iterations == 9


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("max_iterations = 7\n", "does not name the solver"),
        ('solver = "gradient-descent"\nmax_iteration = 7\n', "no setting 'max_iteration'"),
        ('solver = "gradient-decent"\n', "did you mean 'gradient-descent'"),
    ],
)
def test_a_faulty_preset_is_named(shelf: Path, text: str, fault: str) -> None:
    (shelf / "solvers" / "bad.toml").write_text(text)
    with pytest.raises(InputError, match=fault) as error:
        presets.solver_named("bad")
    assert "bad.toml" in str(error.value)


def test_a_trained_prior_is_its_network_with_its_weights(shelf: Path) -> None:
    network = trained(shelf)
    prior = it.priors.load("tiny")
    x = torch.rand(2, 1, 8, 8)
    one_by_one = torch.cat([network(item) for item in x.split(1)])
    assert torch.equal(prior.denoise(x, 0.1), one_by_one)
    assert not any(p.requires_grad for p in prior.network.parameters())  # type: ignore[attr-defined]
    assert torch.equal(presets.prior_named("tiny").denoise(x, 0.1), one_by_one)  # type: ignore[attr-defined]


def test_a_trained_prior_solves_a_problem_by_its_name(shelf: Path) -> None:
    trained(shelf)
    y = torch.rand(1, 1, 8, 8)
    problem = it.Problem(y, it.operators.Identity((1, 8, 8)))
    solution = it.solve(
        problem, prior="tiny", regularization=1.0, solver="admm", max_iterations=3, progress=False
    )
    assert solution.x.isfinite().all() and not torch.equal(solution.x, y)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ('prior = "denoiser"', "does not name the kind of prior"),
        ('name = "dncnn"', "the network has no name"),
        ('weights = "weights.safetensors"', "safetensors file next to its card"),
    ],
)
def test_a_card_that_lacks_something_is_named(shelf: Path, change: str, fault: str) -> None:
    trained(shelf)
    card = shelf / "priors" / "tiny" / "card.toml"
    card.write_text(card.read_text().replace(change, ""))
    with pytest.raises(InputError, match=fault) as error:
        it.priors.load("tiny")
    assert "card.toml" in str(error.value)


@pytest.mark.parametrize(
    ("before", "after", "fault"),
    [
        ('"dncnn"', '"dncn"', "did you mean 'dncnn'"),
        ("width = 4", "wdth = 4", "no setting 'wdth'"),
        ("depth = 3", "depth = 4", "do not fit"),
        ("sigma = 0.1", "sigm = 0.1", "no setting 'sigm'"),
        ("weights.safetensors", "gone.safetensors", "there are no weights"),
    ],
)
def test_a_card_that_does_not_fit_its_weights_is_refused(
    shelf: Path, before: str, after: str, fault: str
) -> None:
    trained(shelf)
    card = shelf / "priors" / "tiny" / "card.toml"
    card.write_text(card.read_text().replace(before, after))
    with pytest.raises(InputError, match=fault):
        it.priors.load("tiny")


def test_pickled_weights_are_not_loaded_from_the_shelf(shelf: Path) -> None:
    trained(shelf)
    folder = shelf / "priors" / "tiny"
    torch.save(DnCNN(depth=3, width=4).state_dict(), folder / "weights.pth")
    (folder / "card.toml").write_text(
        (folder / "card.toml").read_text().replace("weights.safetensors", "weights.pth")
    )
    with pytest.raises(InputError, match="safetensors"):
        it.priors.load("tiny")


def test_truncated_weights_are_refused(shelf: Path) -> None:
    trained(shelf)
    weights = shelf / "priors" / "tiny" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(InputError, match=r"weights\.safetensors is not a readable file of weights"):
        it.priors.load("tiny")


def test_a_scene_of_any_editor_is_read(tmp_path: Path) -> None:
    (tmp_path / "bom.toml").write_bytes(b"\xef\xbb\xbfseed = 3\r\n")
    assert catalogue.read_toml(tmp_path / "bom.toml") == {"seed": 3}
    (tmp_path / "utf16.toml").write_bytes("seed = 3".encode("utf-16"))
    with pytest.raises(InputError, match="save it as UTF-8"):
        catalogue.read_toml(tmp_path / "utf16.toml")


@pytest.mark.parametrize("prior", ["0.1*tv", "tv + nonnegative", {"tv": 0.1}], ids=str)
def test_weights_of_names_are_refused_with_the_way_to_write_them(prior: object) -> None:
    with pytest.raises(InputError, match=r"0\.1 \* it\.priors\.TotalVariation\(\)"):
        presets.priors_named(prior)  # type: ignore[arg-type]
