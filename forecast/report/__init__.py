"""Figures and the self-contained HTML page of a run: the only room that knows plotly."""
