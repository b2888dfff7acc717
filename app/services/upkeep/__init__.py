"""Keeping rows and objects together: the sweep, the doctor, what both read."""
