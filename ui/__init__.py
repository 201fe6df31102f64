"""The Gradio panels. The only room that imports gradio; it is handed a pool of ChatBackends."""

from ui.gradio_import import leave_out_stubs

leave_out_stubs()  # here, as it must come before the first import of gradio
