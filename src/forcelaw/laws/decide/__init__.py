"""Allocation, budgets, design of further runs, forecasts."""
