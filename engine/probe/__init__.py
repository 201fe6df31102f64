"""Probes in child processes: is this file safe to load, and which CPU backend runs it?"""
