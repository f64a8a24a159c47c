"""Layouts that keep the observations and the actions of each episode in a group: Minari, ManiSkill, ALOHA, MoCapAct."""
