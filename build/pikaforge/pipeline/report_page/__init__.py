"""The page of build reports, report.html: for people what report.json is for scripts."""
