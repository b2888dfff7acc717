"""Panopto's numbers of languages, as BCP 47 tags (source: yt-dlp's extractor)."""

LANGUAGES = dict(
    enumerate(
        (
            *("en-US", "en-GB", "es-MX", "es-ES", "de-DE", "fr-FR", "nl-NL", "th-TH"),
            *("zh-CN", "zh-TW", "ko-KR", "ja-JP", "ru-RU", "pt-PT", "pl-PL", "en-AU"),
            *("da-DK", "fi-FI", "hu-HU", "nb-NO", "sv-SE", "it-IT"),
        )
    )
)
