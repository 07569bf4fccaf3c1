"""What is decided about where clients are trained and what is done when something fails; pure."""
