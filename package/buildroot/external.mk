include $(sort $(wildcard $(BR2_EXTERNAL_OLLA_PATH)/package/*/*.mk))
