# Stands for docker.io/jodogne/orthanc-plugins where no registry can be reached: Debian's Orthanc.
FROM docker.io/library/debian:bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends orthanc orthanc-dicomweb orthanc-webviewer \
 && rm -rf /var/lib/apt/lists/* /etc/orthanc/*
# As in the image that it stands for, the folder is root's, whom no capability lets into those of others.
RUN install -d -o root -g root -m 755 /var/lib/orthanc /var/lib/orthanc/db
VOLUME /var/lib/orthanc/db
EXPOSE 4242 8042
ENTRYPOINT ["Orthanc"]
CMD ["/etc/orthanc/"]
