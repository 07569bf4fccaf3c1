"""Runs seen from outside, from their directories alone: lists, live views, reports."""
