"""Who may enter: logins, API keys, owners, rate limits, origins."""
