"""The report, the charts, the model card and the Modelfile of an export."""
