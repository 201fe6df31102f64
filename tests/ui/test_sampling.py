from dataclasses import replace

import pytest

from engine.config import SamplingParams
from engine.errors import SettingsError
from ui.pages.settings_panel import SettingsPanel
from ui.sampling import FIELDS, ModelSettings, preset_of, presets, sampling_from, stops_from
from ui.terminal.chat import changed


def test_what_is_not_given_has_the_engines_default() -> None:
    assert sampling_from({}) == SamplingParams()
    assert sampling_from(dict.fromkeys(FIELDS)) == SamplingParams()


def test_the_panels_values_reach_the_engine_in_their_order_and_type() -> None:
    prompt, sampling = SettingsPanel.read(
        ["Be brief.", 0, 64.0, 1.3, 0.5, 20.0, 0.1, 7.0, -0.5, 2, 0.9, 0.5, 0.2, "END\n\\n", "refuse"]
    )
    assert prompt == "Be brief."
    penalties = {"frequency_penalty": -0.5, "presence_penalty": 2.0}
    later = {"typical_p": 0.9, "xtc_probability": 0.5, "xtc_threshold": 0.2}
    expected = SamplingParams(*(0.0, 64, 1.3, 0.5, 20, 0.1, 7), stop=("END", "\n"), overflow="refuse")
    assert sampling == replace(expected, **penalties, **later)  # type: ignore[arg-type]
    assert isinstance(sampling.max_tokens, int)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 9),
        ("max_tokens", 1.5),
        ("top_p", "much"),
        ("seed", -1),
        ("top_k", float("nan")),
        ("overflow", "explode"),
        ("stop", "a\n" * 17),
    ],
)
def test_bad_values_are_named(name: str, value: object) -> None:
    with pytest.raises(SettingsError, match=name):
        sampling_from({name: value})


def test_the_sliders_stay_within_what_the_engine_takes() -> None:
    for field in FIELDS.values():
        for value in (field.low, field.high):
            sampling_from({field.name: value})


def test_a_setting_is_changed_by_its_text() -> None:
    start = SamplingParams(stop=("END",), seed=4)
    assert changed(start, "temperature", "0.2") == SamplingParams(temperature=0.2, stop=("END",), seed=4)
    assert changed(start, "seed", "").seed is None
    for name, value in (("temperature", ""), ("nonsense", "1"), ("temperature", "warm"), ("top_k", "1.5")):
        with pytest.raises(SettingsError, match=name):
            changed(start, name, value)


@pytest.mark.parametrize(
    ("written", "stops"),
    [
        ("", ()),
        ("END\n\n###", ("END", "###")),
        (r"\n\nUser:", ("\n\nUser:",)),
        (r"C:\\new \x", (r"C:\new \x",)),
    ],
)
def test_stop_strings_are_one_a_line(written: str, stops: tuple[str, ...]) -> None:
    assert stops_from(written) == stops


def test_presets_are_in_range_and_known_again() -> None:
    for recommended in ({}, {"temperature": 0.6, "top_k": 20}):
        for name, values in presets(recommended).items():
            assert sampling_from(values).temperature == values["temperature"]
            assert preset_of(values, recommended) == name
    own = presets({"temperature": 0.6})["own"]
    assert own == {**presets({})["balanced"], "temperature": 0.6}
    assert next(iter(presets({"top_k": 5}))) == "own"
    assert preset_of({**own, "top_p": 0.5}, {"temperature": 0.6}) is None


def test_another_models_settings_take_the_place_of_what_was_not_changed() -> None:
    plain, own = ModelSettings(4096), ModelSettings(256, {"temperature": 0.6})
    taken = own.instead_of(plain, plain.defaults())
    assert (taken["temperature"], taken["max_tokens"], own.preset_of(taken)) == (0.6, 0, "own")
    assert plain.instead_of(own, taken) == plain.defaults()
    mine = {**plain.defaults(), "top_k": 5, "max_tokens": 3000, "seed": 7, "min_p": None}
    taken = own.instead_of(plain, mine)
    assert (taken["temperature"], taken["top_k"], taken["seed"]) == (plain.defaults()["temperature"], 5, 7)
    assert taken["max_tokens"] == 256 and own.preset_of(taken) is None
