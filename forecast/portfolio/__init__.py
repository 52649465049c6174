"""Strategies, costs, simulation and performance: from forecasts to a portfolio."""
