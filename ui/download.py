"""A file that the browser makes itself: nothing that a person wrote lies around in a folder of the server."""

from __future__ import annotations

File = dict[str, str]
"""A file's `name`, its media `type`, and its `content`: what a hidden gr.JSON holds for `DOWNLOAD`."""

DOWNLOAD = """(file) => {
  if (!file) return null;
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([file.content], {type: file.type}));
  link.download = file.name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  return null;
}"""
