"""What the Trainer calls during the loop: progress and stops, averages, margins, and the check for NaN."""
