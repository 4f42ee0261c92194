################################################################################
#
# olla
#
################################################################################

OLLA_VERSION = 0.1.0
OLLA_SITE = $(call github,OWNER,olla,v$(OLLA_VERSION))
OLLA_LICENSE = Apache-2.0
OLLA_LICENSE_FILES = LICENSE
OLLA_DEPENDENCIES = inih jsmn

ifeq ($(BR2_PACKAGE_OLLA_TLS),y)
OLLA_DEPENDENCIES += mbedtls
OLLA_TLS = mbedtls
else
OLLA_TLS = none
endif

OLLA_MAKE_OPTS = \
	PREFIX=/usr \
	TLS=$(OLLA_TLS) \
	CPPFLAGS="$(TARGET_CPPFLAGS) -DOLLA_MAX_CLIENTS=$(BR2_PACKAGE_OLLA_MAX_CLIENTS)"

define OLLA_BUILD_CMDS
	$(TARGET_MAKE_ENV) $(MAKE) -C $(@D) $(TARGET_CONFIGURE_OPTS) $(OLLA_MAKE_OPTS)
endef

define OLLA_INSTALL_TARGET_CMDS
	$(TARGET_MAKE_ENV) $(MAKE) -C $(@D) $(TARGET_CONFIGURE_OPTS) $(OLLA_MAKE_OPTS) \
		DESTDIR=$(TARGET_DIR) install
endef

# Its standard output goes nowhere when S60olla has started it.
define OLLA_INSTALL_INIT_SYSV
	$(INSTALL) -D -m 0755 $(OLLA_PKGDIR)/S60olla \
		$(TARGET_DIR)/etc/init.d/S60olla
	$(SED) 's/^;output = stdout$$/output = syslog/' $(TARGET_DIR)/etc/olla.ini
endef

define OLLA_INSTALL_INIT_SYSTEMD
	$(INSTALL) -D -m 0644 $(@D)/package/systemd/olla.service \
		$(TARGET_DIR)/usr/lib/systemd/system/olla.service
endef

define OLLA_USERS
	olla -1 olla -1 * - - - olla
endef

define OLLA_PERMISSIONS
	/etc/olla.ini f 640 root olla - - - - -
endef

$(eval $(generic-package))
