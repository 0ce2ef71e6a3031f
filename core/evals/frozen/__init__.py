"""What evaluations of a frozen encoder share: its features, how they are pooled, kept and cut to maps and clips."""
