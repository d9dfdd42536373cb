"""Strategies for a stream of classes: baselines, controls and memories behind one small interface."""
