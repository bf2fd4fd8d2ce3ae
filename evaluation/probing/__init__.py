"""Frozen encoders judged by what a small classifier makes of their features: linear, attentive, nearest neighbours."""
