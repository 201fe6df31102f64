import pytest

from engine.errors import SettingsError
from engine.settings import SamplingSettings
from ui.sampling_fields import FIELDS, sampling_from
from ui.settings_panel import SettingsPanel
from ui.terminal import changed


def test_what_is_not_given_has_the_engines_default() -> None:
    assert sampling_from({}) == SamplingSettings()
    assert sampling_from({field.name: None for field in FIELDS}) == SamplingSettings()


def test_the_panels_values_reach_the_engine_in_their_order_and_type() -> None:
    prompt, sampling = SettingsPanel.read(["Be brief.", 0, 64.0, 1.3, 0.5, 20.0, 0.1, 7.0])
    assert prompt == "Be brief."
    assert sampling == SamplingSettings(0.0, 64, 1.3, 0.5, 20, 0.1, 7)
    assert isinstance(sampling.max_tokens, int)


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", 9), ("max_tokens", 1.5), ("top_p", "much"), ("seed", -1), ("top_k", float("nan"))],
)
def test_bad_values_are_named(name: str, value: object) -> None:
    with pytest.raises(SettingsError, match=name):
        sampling_from({name: value})


def test_the_sliders_stay_within_what_the_engine_takes() -> None:
    for field in FIELDS:
        for value in (field.low, field.high):
            sampling_from({field.name: value})


def test_a_setting_is_changed_by_its_text() -> None:
    start = SamplingSettings(stop=("END",), seed=4)
    assert changed(start, "temperature", "0.2") == SamplingSettings(temperature=0.2, stop=("END",), seed=4)
    assert changed(start, "seed", "").seed is None
    for name, value in (("temperature", ""), ("nonsense", "1"), ("temperature", "warm"), ("top_k", "1.5")):
        with pytest.raises(SettingsError, match=name):
            changed(start, name, value)
