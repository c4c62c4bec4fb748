"""What messages to people say, in the languages that the panels' admins read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

_FA_DIGITS = str.maketrans("0123456789", "۰۱۲۳۴۵۶۷۸۹")


@dataclass(frozen=True, slots=True)
class Language:
    """One language's words. `titles` are by action, `words` by what they stand for."""

    titles: Mapping[str, str]
    words: Mapping[str, str]
    statuses: Mapping[str, str]
    units: tuple[str, str, str, str, str, str]
    """Of amounts of data, each 1,024 times the one before."""
    zone: str = "UTC"
    """In which times are shown where nothing else is said (an IANA name)."""
    persian: bool = False
    """Whether dates are of the Persian calendar, and digits Persian."""

    def bytes(self, count: float) -> str:
        """1,073,741,824 as `1.0 GB`."""
        # JSON knows whole numbers that no float can hold.
        count = max(-(1 << 100), min(count, 1 << 100))
        power = 0
        while abs(count) >= 1024 and power < len(self.units) - 1:
            count, power = count / 1024, power + 1
        return self.digits(f"{count:.1f} {self.units[power]}" if power else f"{count:.0f} {self.units[0]}")

    def digits(self, text: str) -> str:
        return text.translate(_FA_DIGITS) if self.persian else text

    def date(self, at: datetime) -> str:
        """A local time, to the minute, in the language's calendar."""
        year, month, day = jalali(at.year, at.month, at.day) if self.persian else (at.year, at.month, at.day)
        shown = f"{year:04}/{month:02}/{day:02}" if self.persian else f"{year:04}-{month:02}-{day:02}"
        return self.digits(f"{shown} {at:%H:%M}")


def jalali(year: int, month: int, day: int) -> tuple[int, int, int]:
    """A Gregorian date in the Persian calendar (33-year cycles, right from 1799 to 2256)."""
    before = (0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334)
    leap = year + 1 if month > 2 else year
    days = 355666 + 365 * year + (leap + 3) // 4 - (leap + 99) // 100 + (leap + 399) // 400 + day + before[month - 1]
    found = -1595 + 33 * (days // 12053)
    days %= 12053
    found += 4 * (days // 1461)
    days %= 1461
    if days > 365:
        found += (days - 1) // 365
        days = (days - 1) % 365
    if days < 186:
        return found, 1 + days // 31, 1 + days % 31
    return found, 7 + (days - 186) // 30, 1 + (days - 186) % 30


_LATIN_UNITS = ("B", "KB", "MB", "GB", "TB", "PB")
ENGLISH = Language(
    {
        "user_created": "🆕 User created",
        "user_updated": "✏️ User changed",
        "user_deleted": "🗑️ User deleted",
        "user_limited": "🪫 Data limit reached",
        "user_expired": "🕔 User expired",
        "user_disabled": "❌ User disabled",
        "user_enabled": "✅ User enabled",
        "data_usage_reset": "🔁 Traffic reset",
        "data_reset_by_next": "🔁 Next plan started",
        "subscription_revoked": "🔁 Subscription revoked",
        "reached_usage_percent": "📊 Usage reminder",
        "reached_days_left": "⏳ Expires soon",
        "marzhook_test": "🔔 Test message",
        "endpoint_failing": "⚠️ An endpoint is failing",
        "endpoint_disabled": "⛔ An endpoint was disabled",
        "endpoint_recovered": "✅ An endpoint is back",
        "deliveries_stalled": "⚠️ Deliveries are stalled",
    },
    {
        "status": "Status", "traffic": "Traffic", "of": "{used} of {limit}", "unlimited": "unlimited", "expires": "Expires",
        "never": "never", "admin": "Belongs to", "by": "By", "used_percent": "Used", "days_left": "Days left",
        "reason": "Reason", "endpoint": "Endpoint", "time": "Time",
    },
    {"active": "active", "disabled": "disabled", "limited": "limited", "expired": "expired", "on_hold": "on hold"},
    _LATIN_UNITS,
)  # fmt: skip
PERSIAN = Language(
    {
        "user_created": "🆕 کاربر ساخته شد",
        "user_updated": "✏️ کاربر ویرایش شد",
        "user_deleted": "🗑️ کاربر حذف شد",
        "user_limited": "🪫 حجم کاربر تمام شد",
        "user_expired": "🕔 اعتبار کاربر تمام شد",
        "user_disabled": "❌ کاربر غیرفعال شد",
        "user_enabled": "✅ کاربر فعال شد",
        "data_usage_reset": "🔁 مصرف کاربر صفر شد",
        "data_reset_by_next": "🔁 طرح بعدی آغاز شد",
        "subscription_revoked": "🔁 لینک اشتراک باطل شد",
        "reached_usage_percent": "📊 یادآوری مصرف",
        "reached_days_left": "⏳ اعتبار رو به پایان است",
        "marzhook_test": "🔔 پیام آزمایشی",
        "endpoint_failing": "⚠️ یک مقصد پاسخ نمی‌دهد",
        "endpoint_disabled": "⛔ یک مقصد غیرفعال شد",
        "endpoint_recovered": "✅ یک مقصد دوباره کار می‌کند",
        "deliveries_stalled": "⚠️ ارسال‌ها متوقف مانده‌اند",
    },
    {
        "status": "وضعیت", "traffic": "مصرف", "of": "{used} از {limit}", "unlimited": "نامحدود", "expires": "تاریخ انقضا",
        "never": "بدون انقضا", "admin": "ادمین", "by": "توسط", "used_percent": "درصد مصرف", "days_left": "روزهای باقی‌مانده",
        "reason": "دلیل", "endpoint": "مقصد", "time": "زمان",
    },
    {"active": "فعال", "disabled": "غیرفعال", "limited": "محدود", "expired": "منقضی", "on_hold": "در انتظار"},
    ("بایت", "کیلوبایت", "مگابایت", "گیگابایت", "ترابایت", "پتابایت"),
    zone="Asia/Tehran",
    persian=True,
)  # fmt: skip
RUSSIAN = Language(
    {
        "user_created": "🆕 Пользователь создан",
        "user_updated": "✏️ Пользователь изменён",
        "user_deleted": "🗑️ Пользователь удалён",
        "user_limited": "🪫 Трафик исчерпан",
        "user_expired": "🕔 Срок пользователя истёк",
        "user_disabled": "❌ Пользователь отключён",
        "user_enabled": "✅ Пользователь включён",
        "data_usage_reset": "🔁 Трафик сброшен",
        "data_reset_by_next": "🔁 Начался следующий тариф",
        "subscription_revoked": "🔁 Подписка отозвана",
        "reached_usage_percent": "📊 Напоминание о трафике",
        "reached_days_left": "⏳ Срок скоро истечёт",
        "marzhook_test": "🔔 Проверочное сообщение",
        "endpoint_failing": "⚠️ Адрес не отвечает",
        "endpoint_disabled": "⛔ Адрес отключён",
        "endpoint_recovered": "✅ Адрес снова работает",
        "deliveries_stalled": "⚠️ Доставка остановилась",
    },
    {
        "status": "Состояние", "traffic": "Трафик", "of": "{used} из {limit}", "unlimited": "без ограничения",
        "expires": "Истекает", "never": "никогда", "admin": "Администратор", "by": "Кто", "used_percent": "Использовано",
        "days_left": "Осталось дней", "reason": "Причина", "endpoint": "Адрес", "time": "Время",
    },
    {"active": "активен", "disabled": "отключён", "limited": "ограничен", "expired": "истёк", "on_hold": "в ожидании"},
    ("Б", "КБ", "МБ", "ГБ", "ТБ", "ПБ"),
)  # fmt: skip
CHINESE = Language(
    {
        "user_created": "🆕 用户已创建",
        "user_updated": "✏️ 用户已修改",
        "user_deleted": "🗑️ 用户已删除",
        "user_limited": "🪫 流量已用完",
        "user_expired": "🕔 用户已到期",
        "user_disabled": "❌ 用户已停用",
        "user_enabled": "✅ 用户已启用",
        "data_usage_reset": "🔁 流量已重置",
        "data_reset_by_next": "🔁 下一套餐已开始",
        "subscription_revoked": "🔁 订阅已撤销",
        "reached_usage_percent": "📊 流量提醒",
        "reached_days_left": "⏳ 即将到期",
        "marzhook_test": "🔔 测试消息",
        "endpoint_failing": "⚠️ 有地址投递失败",
        "endpoint_disabled": "⛔ 有地址被停用",
        "endpoint_recovered": "✅ 地址已恢复",
        "deliveries_stalled": "⚠️ 投递停滞",
    },
    {
        "status": "状态", "traffic": "流量", "of": "{used} / {limit}", "unlimited": "不限", "expires": "到期时间",
        "never": "永不", "admin": "所属管理员", "by": "操作者", "used_percent": "已用", "days_left": "剩余天数",
        "reason": "原因", "endpoint": "地址", "time": "时间",
    },
    {"active": "正常", "disabled": "已停用", "limited": "已限制", "expired": "已到期", "on_hold": "待激活"},
    _LATIN_UNITS,
)  # fmt: skip
LANGUAGES: Final = {"en": ENGLISH, "fa": PERSIAN, "ru": RUSSIAN, "zh": CHINESE}
