"""Authentication and limits: logins, the API key, visitor cookies, rate limits, allowed origins."""
