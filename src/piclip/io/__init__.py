"""Files in and out: pictures, supports, results; the one guarded reader."""
