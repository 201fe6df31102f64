from __future__ import annotations

from pathlib import Path

from pipeline.exporter.resume import remove_stale_outputs
from pipeline.manifest import Output, Record


def written(path: Path) -> Output:
    path.write_text("a model")
    status = path.stat()
    return Output(path.name, "Q8_0", status.st_size, 8.5, 1.0, "ab", status.st_mtime_ns)


def test_only_what_an_earlier_export_wrote_goes(tmp_path: Path) -> None:
    folder = tmp_path / "bob"
    folder.mkdir()
    old, kept, touched = (written(folder / f"bob-{kind}.gguf") for kind in ("Q4_0", "Q8_0", "Q5_0"))
    foreign = written(tmp_path / "mine.gguf")
    (folder / touched.file).write_text("the user's own by now")
    earlier = Record("f", outputs={one.file: one for one in (old, kept, touched)})
    earlier.outputs["../mine.gguf"] = Output("../mine.gguf", *list(vars(foreign).values())[1:])
    remove_stale_outputs(folder, earlier, Record("g", outputs={kept.file: kept}))
    left = {path.name for path in tmp_path.rglob("*.gguf")}
    assert left == {"bob-Q8_0.gguf", "bob-Q5_0.gguf", "mine.gguf"}
